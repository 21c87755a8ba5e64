"""What we know, said as text: templates, tasks and their mixture."""
