"""A real mosquitto on a free loopback port, and a subscriber that keeps what it hears."""
