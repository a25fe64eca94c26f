"""What every stage needs of the machine and of a run's folder."""
