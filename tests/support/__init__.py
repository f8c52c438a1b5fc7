"""What several test files share: the program as a process, made-up inputs, independent implementations."""
