"""What boards tell, kept: the subscription, the store and its receipts. Runs beside a broker, not on a board."""
