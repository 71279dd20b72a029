"""What applications declare: tasks, their options and annotations, and calls of them."""
