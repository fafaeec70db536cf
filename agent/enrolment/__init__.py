"""Who a board, an operator or a collector is to a broker: keys, certificates, and what each may read and write there.

``names`` says what stands in a certificate; ``certificates`` reads and makes X.509; ``identity`` keeps a board's own
key and certificate; ``authority`` is a small certificate authority for those who have none; ``access`` writes the
broker's rules; ``proof`` tries a connection. ``certificates`` and whoever uses it need the package cryptography. A
daemon loads none of them.
"""
