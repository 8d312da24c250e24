"""The gallery page: scenes that the microscope simulates."""
