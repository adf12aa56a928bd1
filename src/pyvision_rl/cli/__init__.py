"""The ``pvrl`` command. The only place that prints, picks exit codes and catches every error."""
