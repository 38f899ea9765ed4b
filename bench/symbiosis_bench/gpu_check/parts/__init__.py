"""The steps of a GPU check. Each is a program; what two of them share:

server.py   a daemon's end that adds one to bytes on the device, in a process of its own
asked.py    the options that all understand
"""
