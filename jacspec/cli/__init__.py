"""The command line around a study: keys explained, folders chosen, sweeps recorded."""
