"""The shared language of an AOS network: what is said, signed, drawn and checked. No I/O.

Start at `messages` for what travels between the parties, at `frames` for how it is signed, at
`sortition` for who is chosen, and at `evidence` for how anybody checks all of it afterwards.
"""
