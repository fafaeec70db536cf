"""The workstation half: one trained model in, a signed family of compressed candidates out. Never loaded on a board.

``recipe`` says what is wanted, ``plan`` turns it into a tree of steps, ``run`` makes each step in a process of its own
and keeps it by content, ``judge`` measures what came out; publishing is the registry's. ``techniques`` holds one small
module for each technique, ``nets`` what needs torch. Nothing here is imported before a technique is used, so that a
recipe can be checked without torch.
"""
