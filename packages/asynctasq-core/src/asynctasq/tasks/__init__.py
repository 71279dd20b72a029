"""What applications declare: tasks with their options and annotations, and calls of them."""
