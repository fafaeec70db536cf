"""Stage 4, pure: which measured option fits the budgets, which of those the objective prefers, and why."""
