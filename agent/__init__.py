"""boardfit: which compressed model, run how, is the best that fits this very board under these budgets?

One pass has six stages, each a package; ``agent.pipeline`` calls them in this order and nobody else does:

1. ``device``    what is this board: facts, sensors, a matched profile, a class fingerprint
2. ``registry``  which signed candidates exist; fetch those worth measuring into a content-addressed cache
3. ``measure``   what each (candidate x operating point) really costs here, in a fresh confined child
4. ``select``    pure: every budget is met, missed or unknown; unknown never passes; the objective decides
5. ``deploy``    stage, prove, switch one symlink, watch, and go back by itself
6. ``report``    a bounded outbox on disk, drained over MQTT

Imports point down only::

    cli > verbs > console > web > collector > daemon, fleet, compress, enrolment, setup, client
        > sustained, combination > pipeline, joint > classmates > question, rehearsal, rungs
        > orders, timetable, recovery, replay, watch, safe_mode > site > reporting > the six stages
        > records, ledger, settings, ownership, database, reserve, durable, runtimes, mqtt, config > core > errors

``site`` builds the adapters of one state directory, ``reporting`` makes its messages, ``question`` says what a
decision is over, ``combination`` is the pass of tasks that share a board and ``joint`` what is known of them running at
once, ``rungs`` brings a ladder into the release store, ``rehearsal`` runs what was chosen beside what serves,
``classmates`` is what boards of a class tell each other of their measurements (``vouching`` for it by their
certificates), ``verbs`` are what the command line does with them.
``orders`` decides which signed command is obeyed and what becomes of it; the daemon runs it. ``fleet`` is the
operator's side; ``collector`` keeps what boards tell and ``web`` shows it; ``enrolment`` is who is who at the broker.
``client`` is what applications import: it opens what ``deploy`` has put there, with the very ``runtimes`` that measured
it; ``watch`` takes what it tells, and steps along the ladder.
Stages never import each other: ``pipeline`` passes values, and hands ports (``agent.core.ports``) in as arguments.
``core`` is pure: no file, socket, process, clock or environment. Importing ``agent.daemon`` loads neither numpy nor
a runtime. ``tests/test_architecture.py`` asserts all of this.
"""

__version__ = "0.1.0"
