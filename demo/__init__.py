"""The small model that ships with the project, and makers of random ones of any size."""
