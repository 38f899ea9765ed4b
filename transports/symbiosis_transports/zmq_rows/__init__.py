"""What the two ZeroMQ transports have in common: messages, a door, a line, and the journey of a slot between them.

    messages.py   what is said
    door.py       the daemon's ROUTER in its loop, and who is still there
    listener.py   lets clients in
    server.py     the daemon's end of a channel
    line.py       a client's DEALER, and the daemon's death
    client.py     the client's end of a channel
    slots.py      the memory of the slots, whoever shares it

`zmq_ipc` shares the slots' memory between both ends; `zmq_tcp` carries their rows. All else is the same.
"""
