"""What runs in a contender's own environment: its tasks, its client, and what both share. Nothing here but the files
named selfheal_* imports the project, and these files are all that a contender sees of it."""
