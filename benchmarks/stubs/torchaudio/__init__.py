"""Empty: LLaMA-Factory imports torchaudio, of which there is no CPU build beside this torch."""
