"""What operators see and do in the admin, as their permissions allow."""

from asynctasq.testing import Calls
from django.contrib.auth.models import Permission, User
from django.test import TransactionTestCase

from ..models import Customer, Order
from ..tasks import CardRefused, charge

DEAD, QUEUES = "/admin/asynctasq_django/deadcall/", "/admin/asynctasq_django/queue/"


class OperatorTests(TransactionTestCase):
    def setUp(self) -> None:
        self.calls = self.enterContext(Calls())
        customer = Customer.objects.create(email="bob@example.com")
        self.order = Order.objects.create(customer=customer, amount=5000)
        charge(self.order, customer.pk).dispatch_sync()
        with self.assertRaises(CardRefused):
            self.calls.run_sync(86_400)

    def log_in(self, *permissions: str) -> None:
        user = User.objects.create_user("ops", password="x", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        self.client.force_login(user)

    def test_nobody_looks_without_a_permission(self) -> None:
        self.assertEqual(self.client.get(DEAD).status_code, 302)
        self.log_in("view_order")
        for address in (DEAD, QUEUES):
            self.assertEqual(self.client.get(address).status_code, 403)
        self.assertNotContains(self.client.get("/admin/"), DEAD)

    def test_who_may_look_cannot_act(self) -> None:
        self.log_in("view_deadcall", "view_queue")
        page = self.client.get(DEAD)
        self.assertContains(page, "CardRefused: 5000 is more than the bank pays")
        self.assertNotContains(page, 'name="do"')
        for do in ("retry", "retry-all", "delete", "delete-all"):
            answer = self.client.post(DEAD, {"do": do, "id": ["x"], "sure": "yes"})
            self.assertEqual(answer.status_code, 403)
        for do in ("purge", "run", "pause", "resume", "pause-queue", "resume-queue", "drop"):
            answer = self.client.post(QUEUES, {"do": do, "name": "payments", "sure": "yes"})
            self.assertEqual(answer.status_code, 403)

    def test_a_dead_letter_links_to_its_row(self) -> None:
        self.log_in("view_deadcall", "view_order")
        page = self.client.get(DEAD, {"arguments": f"Order#{self.order.pk}"})
        call = self.calls.one(charge)
        address = f"?id={call.id}&amp;queue=payments"
        self.assertContains(page, address)
        page = self.client.get(f"{DEAD}?id={call.id}&queue=payments")
        self.assertContains(page, f'href="/admin/shop/order/{self.order.pk}/change/"')
        self.assertContains(page, "raise CardRefused")
        self.assertContains(self.client.get(DEAD, {"arguments": "Order#0"}), "No dead letters fit.")

    def test_it_is_retried_once_the_amount_is_right(self) -> None:
        self.log_in("view_deadcall", "change_deadcall")
        Order.objects.update(amount=50)
        call = self.calls.one(charge)
        answer = self.client.post(DEAD, {"do": "retry", "id": [call.id]}, follow=True)
        self.assertContains(answer, "Put back on their queues: 1.")
        self.calls.run_sync()
        self.order.refresh_from_db()
        self.assertTrue(self.order.is_paid)

    def test_one_that_is_gone_meanwhile_is_said(self) -> None:
        self.log_in("view_deadcall", "change_deadcall")
        form = {"do": "retry", "id": [self.calls.one(charge).id, "0" * 32, "no id"]}
        answer = self.client.post(DEAD, form, follow=True)
        self.assertContains(answer, "Put back on their queues: 1.")
        self.assertContains(answer, "2 were no dead letters any more.")

    def test_all_that_fit_are_retried(self) -> None:
        self.log_in("view_deadcall", "change_deadcall")
        answer = self.client.post(DEAD, {"do": "retry-all", "task": "shop.*"}, follow=True)
        self.assertContains(answer, "Put back on their queues: 1.")
        self.assertNotContains(answer, "do it again")

    def test_no_garbage_ends_in_an_error(self) -> None:
        self.log_in("view_deadcall", "change_deadcall", "view_queue", "change_queue")
        for garbage in ("\0", "é" * 400, "[[*"):
            for name in ("queue", "task", "error", "reason", "arguments", "offset"):
                self.assertEqual(self.client.get(DEAD, {name: garbage}).status_code, 200)
            self.assertIn(self.client.get(DEAD, {"id": garbage}).status_code, (200, 404))
            for do in ("retry", "retry-all"):
                form = {"do": do, "id": garbage, "queue": garbage}
                answer = self.client.post(DEAD, form, follow=True)
                self.assertEqual(answer.status_code, 200)
            for do in ("pause-queue", "resume-queue", "run", "pause", "resume"):
                answer = self.client.post(QUEUES, {"do": do, "name": garbage}, follow=True)
                self.assertEqual(answer.status_code, 200, do)

    def test_all_that_fit_are_deleted_after_a_question(self) -> None:
        self.log_in("view_deadcall", "delete_deadcall")
        form = {"do": "delete-all", "task": "shop.*"}
        answer = self.client.post(DEAD, form)
        self.assertContains(answer, "Delete all that fit")
        self.assertContains(self.client.get(DEAD), "CardRefused")
        answer = self.client.post(DEAD, {**form, "sure": "yes"}, follow=True)
        self.assertContains(answer, "Deleted 1.")
        self.assertContains(self.client.get(DEAD), "No dead letters.")

    def test_a_queue_is_purged_after_a_question(self) -> None:
        self.log_in("view_queue", "delete_queue")
        charge(self.order, 1).dispatch_sync()
        form = {"do": "purge", "name": "payments"}
        self.assertContains(self.client.post(QUEUES, form), "Delete everything waiting")
        answer = self.client.post(QUEUES, {**form, "sure": "yes"}, follow=True)
        self.assertContains(answer, "Deleted 1 calls.")

    def test_a_queue_is_paused_and_resumed(self) -> None:
        self.log_in("view_queue", "change_queue")
        Order.objects.update(amount=50)
        form = {"do": "pause-queue", "name": "payments"}
        self.assertContains(self.client.post(QUEUES, form, follow=True), "by ops in the admin")
        charge(self.order, 1).dispatch_sync()
        self.calls.run_sync()
        self.order.refresh_from_db()
        self.assertFalse(self.order.is_paid)
        form["do"] = "resume-queue"
        self.assertNotContains(self.client.post(QUEUES, form, follow=True), "by ops in the admin")
        self.calls.run_sync()
        self.order.refresh_from_db()
        self.assertTrue(self.order.is_paid)

    def test_what_a_message_says_is_text(self) -> None:
        self.log_in("view_deadcall")
        hostile = "<script>alert(1)</script>"
        charge(self.order, hostile).dispatch_sync()
        with self.assertRaises(CardRefused):
            self.calls.run_sync(86_400)
        page = self.client.get(DEAD)
        self.assertNotContains(page, hostile)
        self.assertContains(page, "&lt;script&gt;alert(1)&lt;/script&gt;")
