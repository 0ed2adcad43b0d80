"""The small model that ships with the project, its scenes, its training and its judge."""
