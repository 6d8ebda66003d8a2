"""What holds for every sequence of requests, and for every input: found out by machines that make them up."""
