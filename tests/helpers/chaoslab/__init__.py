"""What the chaos suite is made of: faults on a seeded schedule, workloads that write a history, and a checker that reads it."""
