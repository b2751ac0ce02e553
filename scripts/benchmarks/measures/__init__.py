"""What is measured, in a process and an environment of the rival's own."""
