"""A name server for check.sh that knows one name, which is this machine.

    name-server.py ADDRESS NAME

Answers an A record of NAME with 127.0.0.1, its other records with none, every
other name with "no such name", and prints each question as `NAME TYPE`.
"""

import socket
import struct
import sys

A = 1
TYPES = {A: "A", 28: "AAAA"}
RESPONSE, RECURSION_AVAILABLE, NO_SUCH_NAME = 0x8000, 0x0080, 3


def read_question(message):
    """The name and the type that are asked for, and where the question ends."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    (kind,) = struct.unpack_from("!H", message, at + 1)
    return ".".join(labels).lower(), kind, at + 5


def answer(message, known):
    name, kind, end = read_question(message)
    print(name, TYPES.get(kind, kind), flush=True)
    number, flags = struct.unpack_from("!HH", message)
    flags = RESPONSE | (flags & 0x0100) | RECURSION_AVAILABLE | (0 if name == known else NO_SUCH_NAME)
    found = name == known and kind == A
    header = struct.pack("!HHHHHH", number, flags, 1, int(found), 0, 0)
    # The name as a pointer to the question, type, class, seconds to keep it, length, address.
    record = struct.pack("!HHHIH4B", 0xC00C, A, 1, 1, 4, 127, 0, 0, 1) if found else b""
    return header + message[12:end] + record


def main():
    address, known = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            message, sender = server.recvfrom(512)
            server.sendto(answer(message, known), sender)


main()
