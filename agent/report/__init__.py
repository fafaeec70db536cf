"""Stage 6, report: a bounded outbox on disk, drained over MQTT, and the HTML page.

``outbox`` keeps what is to be sent; ``publisher`` sends it; ``html`` draws the page; ``schemas`` writes the published
JSON Schemas and the AsyncAPI document. What a message holds is in ``agent.core.messages``.
"""
