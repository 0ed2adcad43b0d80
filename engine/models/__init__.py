"""Model families: a checkpoint's parts, its networks and how each is called."""
