"""What applications tell of the models they run: taken in, kept for a minute, judged, and told on.

``receiver`` decides who is listened to, ``live`` keeps the windows and ties them to what is deployed and to the board;
the rules are ``agent.core.live`` and ``agent.core.watch``. The daemon drives it; nothing here is loaded before an
application tells something, but the socket.
"""
