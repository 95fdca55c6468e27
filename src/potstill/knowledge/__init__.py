"""Sources of knowledge: live teachers, cached answers, several teachers as one."""
