"""One session over many processes: fronts have the connections with clients, a coordinator has the machine."""
