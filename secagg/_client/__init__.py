"""The client's machine: its states, the rules that it checks, and its form as bytes."""
