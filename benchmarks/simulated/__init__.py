"""Simulated boards: the real protocol code of a board over a real broker, and no model behind it.

``documents`` says what a simulated board tells of itself, ``board`` how it takes orders; neither touches the network.
``attached`` gives a few boards a connection each, as real boards have it, in one loop (``python -m
benchmarks.simulated``); ``codec`` and ``many`` do the same for thousands with as little as MQTT 5 allows.

What is real: topics, documents and their schemas, that a command is opened, verified and judged by the code that
boards run, that an id is taken once and an old epoch refused, how a rollback exchanges two deployments. What is made up
is every measurement, and how a deployment ends; every document with a figure says ``simulated``.
"""
