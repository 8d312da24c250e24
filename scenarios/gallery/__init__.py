"""The gallery page: what the microscope shows."""
