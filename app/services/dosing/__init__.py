"""Dosing sessions: who may be dosed, doses, vital signs, and the checklist before leaving."""
