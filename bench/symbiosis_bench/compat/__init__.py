"""`symbiosis bench compat`: which families and methods a shared base serves, cell by cell."""
