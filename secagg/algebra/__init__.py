"""Ring vectors, field elements, Shamir's scheme, bit packing: arrays only, no messages, keys or states."""
