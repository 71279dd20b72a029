"""A small shop: orders over HTTP, invoices and receipts in the background."""
