"""Properties that hold for every sequence of requests, and for every input; generated examples test them."""
