"""What families of networks share: modules, dropout, mixed operations."""
