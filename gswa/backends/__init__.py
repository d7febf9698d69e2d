"""Who trains: one package per library behind one protocol (`base`), always in a child process (`child`, `worker`)."""
