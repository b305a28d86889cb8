"""How one trial is trained and measured: plain torch, no Ray, no Optuna, no W&B."""
