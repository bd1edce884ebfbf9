"""Jobs, sweeps and the tables of papers, trained in sub-processes."""
