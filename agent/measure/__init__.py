"""Stage 3: what each (candidate x operating point) really costs on this board, in a fresh confined child.

The way of a pass: ``plan`` lists the options, ``race`` says which is measured next, against which limits, and when the
decision is certain; ``session`` waits for a cool board and for neighbours to go.

The way of one measurement::

    bench.measure_one ── supervisor ──spawn──> worker (confine, exercise, evaluate) ── runtime
                          │  sampler: power         │ events as JSON lines on a pipe of their own
                          │  conditions: context    │ after each one it waits for "go"
                          └── reads memory and scheduling of the worker from outside

Rules:
- Latency is timed inside the child around the run alone; the pipe never counts.
- Which timed runs count, and when there are enough, is ``timing``: pure, and fed with recorded runs in the replay bank.
- A failing candidate is a verdict with one sentence, never an exception; nothing of a child outlives its measurement.
- The agent's process imports neither numpy nor a runtime: models and packs are opened in the child only.
"""
