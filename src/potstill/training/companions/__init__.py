"""Companions of training: what learns or acts together with the student, one file each."""
