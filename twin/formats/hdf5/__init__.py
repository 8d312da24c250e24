"""HDF5 files of others: their structure is read first in a process that can be ended."""
