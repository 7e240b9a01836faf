"""Many runs, each in a process of its own, shared by the processes of one or several machines."""
