"""`penstock bench`: what a configuration costs on this machine, what holds it up, and how many cameras fit."""
