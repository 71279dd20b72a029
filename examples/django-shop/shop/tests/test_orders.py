"""The shop without a server and without a worker: what it dispatches, and what that does."""

from asynctasq.testing import Calls
from django.test import TransactionTestCase

from ..tasks import CardRefused, charge, count_sales, send_receipt


class OrderTests(TransactionTestCase):
    def setUp(self) -> None:
        self.calls = self.enterContext(Calls())

    def order(self, email: str, amount: int) -> str:
        new = {"email": email, "amount": amount}
        answer = self.client.post("/orders/", new, content_type="application/json")
        return f"/orders/{answer.json()['id']}/"

    def test_an_order_is_paid_and_its_receipt_sent_once(self) -> None:
        address = self.order("ada@example.com", 20)
        self.calls.one(charge)
        self.assertFalse(self.client.get(address).json()["is_paid"])
        self.calls.run_sync()
        self.calls.one(send_receipt)
        self.assertEqual(self.client.get(address).json(), {"is_paid": True, "receipts": 1})

    def test_an_order_that_is_refused_stays_unpaid(self) -> None:
        address = self.order("bob@example.com", 5000)
        with self.assertRaises(CardRefused):
            self.calls.run_sync(86_400)
        self.assertEqual(self.client.get(address).json(), {"is_paid": False, "receipts": 0})
        self.assertEqual(self.calls.of(send_receipt), [])

    def test_a_report_is_made_by_two_calls(self) -> None:
        self.order("eve@example.com", 7)
        self.calls.run_sync()
        address = f"/reports/{self.client.post('/reports/').json()['id']}/"
        self.assertEqual(self.client.get(address).json()["state"], "waiting")
        self.calls.run_sync()
        shown = {"state": "done", "report": "eve@example.com;7\n"}
        self.assertEqual(self.client.get(address).json(), shown)

    def test_sales_are_counted_once_for_many_orders(self) -> None:
        for _ in range(5):
            self.order("ada@example.com", 1)
        self.calls.one(count_sales)
