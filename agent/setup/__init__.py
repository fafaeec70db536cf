"""Setting up a board: what is asked, how each answer is tried, what is written, and images that are made to be copied.

Leaves what the configuration means to ``agent.config``, keys and certificates to ``agent.enrolment``, and the order of
the questions to ``agent.verbs.setup``.
"""
