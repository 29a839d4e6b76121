"""Tests of the customer-service application."""
