"""The client's machine: its states, the rules that it holds the server to, and its form as bytes."""
