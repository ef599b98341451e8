"""Where the stages meet: one short file a study."""
