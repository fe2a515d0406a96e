"""What kvreplay adds to Hydra: the launcher `threads` and the sweeper `combinations`, chosen by conf/config.yaml."""
