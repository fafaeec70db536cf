"""An application in service: opens what is deployed, again and again, and says how it went, a line each time.

Runs tests/scenarios/consumer.py with engines of its own, never boardfit's: an upgrade of boardfit is none of its.
"""

import contextlib
import io
import runpy
import sys
import time
import traceback

while True:
    said = io.StringIO()
    began_s = time.monotonic()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path("/srv/application/consumer.py")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        sys.stdout.write(f"FAILED {traceback.format_exc()}\n")
    else:
        sys.stdout.write(f"answered {began_s:.2f} {time.monotonic():.2f} {said.getvalue()}\n")
    sys.stdout.flush()
    time.sleep(0.2)
