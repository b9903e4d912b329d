"""The OpenAPI document: FastAPI's, completed by what every operation can answer, and by the words for people.

Routes declare what is their own (`declarations`); `building` adds what holds for all of them.
"""
